"""Distillation losses, one file per family of knowledge: pure functions of student and teacher."""
