"""Reading and writing a card's flash chip."""
