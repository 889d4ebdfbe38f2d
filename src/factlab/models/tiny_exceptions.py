"""x"""
EXCEPTIONS = {}
