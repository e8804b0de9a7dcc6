"""The one training loop, its checkpoints, schedules and views; teacher, distillation and fine-tuning use it."""
