"""Where the parts are joined: the exporters, the pipeline, its configuration."""
