"""The fields of `backend.settings.Settings`, by concern, and the checks of their values."""
