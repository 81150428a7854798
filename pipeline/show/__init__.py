"""What a person reads: tables, texts, figures, galleries, the report's page."""
