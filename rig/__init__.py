"""What benchmarks, faults and tests stand on: a PostgreSQL and processes of their own, a load that forgets nothing."""
