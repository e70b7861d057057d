"""Answers: sink, rejected messages, replays, scoreboard, drift; reads all other packages.

Import the modules: `sink`, `store`, `dead_letters`, `replay`, `scoreboard`, `drift`.
"""
