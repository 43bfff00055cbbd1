"""What every stage needs: errors, files, params, paths, the shell around a stage."""
