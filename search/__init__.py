"""The search: decides which subnets to try, from two numbers a candidate: accuracy and latency."""
