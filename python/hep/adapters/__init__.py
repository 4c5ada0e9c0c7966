"""A plan's exchange of tokens in frameworks that have a place for it. Each module needs its framework, and nothing here
imports them:

megatron    a token dispatcher of Megatron-Core
torchtitan  a token dispatcher of torchtitan
"""
