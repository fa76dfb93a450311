"""The screens about models: Overview, Compare, Train."""
