"""UG-MCL: uncertainty-guided mutual consistency learning of volumes of which few are labelled (Zhang et al., 2022)."""
