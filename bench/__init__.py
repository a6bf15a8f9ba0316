"""Side-by-side benchmarks against real peers: every claim about speed and memory, measured in one run.

``supervisor`` compares supervisors and only calls their programs; ``boot`` compares boots.
"""
