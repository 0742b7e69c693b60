"""Reading files inside other files in place: members of zips and tars, cells of Parquet tables, rows of manifests."""
