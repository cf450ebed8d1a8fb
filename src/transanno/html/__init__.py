"""What notebooks and reports show: templates that escape every text, and load nothing from anywhere."""
