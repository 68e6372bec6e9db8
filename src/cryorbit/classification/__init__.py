"""Many views at once: classes of particles that are seen from one side, each with its average, its orbit."""
