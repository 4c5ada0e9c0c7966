"""A plan's exchange of tokens in frameworks that have a place for it. Each module needs its framework, and nothing here
imports them before they are asked for:

megatron    a token dispatcher of Megatron-Core
torchtitan  a token dispatcher of torchtitan
options     of both, for a job that takes a plan's placement alone
"""
