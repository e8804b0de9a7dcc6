"""The report of a study: does a method beat the student without a teacher, over seeds and test items?"""
