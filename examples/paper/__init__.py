"""Tan, Elovici, Binder (ICPR 2020), every table and figure, from one program: `python -m examples.paper digits`."""
