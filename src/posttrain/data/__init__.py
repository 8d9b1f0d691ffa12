"""Text to token ids to Batch. Doors: `sources.read`, `template.render`, `packing.plan_rows`, `batch.pack`."""
