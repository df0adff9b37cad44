"""Monitoring: do the risk scores still tell the truth?"""
