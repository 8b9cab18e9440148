"""Collaborative learning of lesion segmentation and disease grading (Zhou et al., CVPR 2019)."""
