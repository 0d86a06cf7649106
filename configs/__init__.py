"""What a study is: the settings' schema and the profiles."""
