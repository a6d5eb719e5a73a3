"""What a person reads of a job: statistics of columns, plots and pages. It knows no job."""
