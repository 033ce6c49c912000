"""One module a revision; `nas.store.schema.REVISIONS` lists them in order."""
