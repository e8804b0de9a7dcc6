"""`edgekd search`: the recipe's own values, by trials of students on the validation split."""
