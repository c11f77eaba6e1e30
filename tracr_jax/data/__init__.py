"""Items and text become arrays: the bridge, batches, retention text."""
