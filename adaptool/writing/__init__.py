"""Writing: outputs streamed into a folder, journalled, and published whole or not at all."""
