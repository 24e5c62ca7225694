"""Try a running receiver and processor out, as every sender would: what `hookd doctor` does."""
