"""The page's interactive figures; `search`, `outlook`, `parameters` and `finals` follow its sections."""
