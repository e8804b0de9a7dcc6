"""Why a network in integers is not faster than in floats, or not as exact: causes, found in what a device measured."""
