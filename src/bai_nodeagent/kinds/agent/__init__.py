"""The Backend.AI agent: what is wanted of it, what runs, what follows from both.

Pure rules, the notes that are kept of it, and what an observation of the node finds;
the doing is in kinds/agent/process/kind.py and kinds/agent/config/kind.py.
"""
