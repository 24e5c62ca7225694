"""What any process here needs before it can do its own work. The chassis knows no webhook."""
