"""Speed and accuracy of transanno on real data, against methods that are in use. See README.md."""
