"""One small function per operator; each registers itself by name (`context.lowers`)."""
