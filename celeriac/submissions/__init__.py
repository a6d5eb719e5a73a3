"""Submitted predictions: the ledger in Redis that loses none of them.

A submission is entered before its caller is told that it was accepted, and ends as done, failed,
cancelled or expired. A message is no more than a hint that something waits.
"""
