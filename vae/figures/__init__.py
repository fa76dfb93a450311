"""Arrays -> Plotly figures and PNG pictures. Pure functions: no torch, no Streamlit."""
