"""The errata of Messidor, which its archives do not contain: copies to leave out, and corrected grades.

Published by ADCIS at https://www.adcis.net/en/third-party/messidor/ on these days:

- 2016-08-31: a grade of Base11
- 2016-10-24: two grades of Base11, one of Base13
- 2017-08-16: 13 pairs of identical images in Base33, so 1187 of the 1200 images remain
- 2018-02-09: two of these pairs have different grades: 20051202_55562_0400_PP and 20051202_54611_0400_PP in the risk of
  macular edema (0 and 1), which is not read here; 20051202_55626_0400_PP and 20051205_33025_0400_PP in the retinopathy
  (2 and 3)

The lists are taken from public loaders that cite this page, such as messidor2.sh of
mikevoets/jama16-retina-replication. They agree on the grades and on the pairs, but some leave out one image of each
pair and some the other. Here 20051205_33025_0400_PP stays, with its grade of 3; with 2, both binary tasks would be the
same.
"""

COPIES = {
    "Base33": (
        "20051202_41076_0400_PP",
        "20051202_48287_0400_PP",
        "20051202_48575_0400_PP",
        "20051202_48586_0400_PP",
        "20051202_54547_0400_PP",
        "20051202_54783_0400_PP",
        "20051202_55457_0400_PP",
        "20051202_55484_0400_PP",
        "20051202_55562_0400_PP",
        "20051202_55582_0400_PP",
        "20051202_55626_0400_PP",
        "20051205_32966_0400_PP",
        "20051205_32981_0400_PP",
    )
}
"""Base -> images to leave out; the identical ones stay."""

CORRECTIONS = {
    ("Base11", "20051020_63045_0100_PP"): (3, 0),
    ("Base11", "20051020_63936_0100_PP"): (3, 1),
    ("Base11", "20051020_64007_0100_PP"): (1, 3),
    ("Base13", "20060523_48477_0100_PP"): (2, 3),
}
"""Base and image -> the grade in the table, and the corrected one."""
