"""What a reducer accumulates of sown values, and how accurately."""
