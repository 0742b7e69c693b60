"""How files inside other files are read in place: members of zips and tars, cells of Parquet tables, rows of manifests."""
