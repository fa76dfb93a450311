"""The screens under Explain."""
