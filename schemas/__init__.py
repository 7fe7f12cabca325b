"""What things are: conventions, records, datasets, stored arrays and errors. numpy, pydantic and yaml only."""
