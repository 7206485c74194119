"""The networks of image metrics in Flax: Inception (FID, KID, IS), LPIPS and CLIP."""
