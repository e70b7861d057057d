"""Requests and answers: sink, rejected messages, replays, scoreboard, drift; reads all other packages.

Import the modules: `sink`, `request`, `store`, `dead_letters`, `replay`, `scoreboard`, `drift`.
"""
