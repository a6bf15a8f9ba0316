"""Side-by-side benchmarks against real peers: what is claimed about speed and memory, measured in one run.

``supervisor`` compares supervisors. Everything here calls programs; nothing imports a house.
"""
