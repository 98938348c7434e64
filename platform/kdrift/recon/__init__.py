"""From a request to a result: acquisition, plan, prepared slice, chains, report."""
