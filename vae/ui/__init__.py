"""Everything that knows Streamlit, apart from the screens themselves."""
