"""The figures the README quotes: ratios, each taken in one run on one machine beside what it is compared to."""
