"""Tables, figures and the page of one study, made from its `result.json` alone."""
