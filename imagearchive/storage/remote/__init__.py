"""Objects behind URLs: in S3, Google Cloud Storage, or Azure, or on an HTTP server."""
