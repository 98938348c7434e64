"""The reconstruction service on Ray Serve: an ingress, a planner of jobs, and samplers."""
