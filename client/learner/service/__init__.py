"""The learner as a process of an organisation: socket, job queue, policy guard.

It decides what runs; `training` runs it.
"""
