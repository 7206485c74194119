"""The networks that image metrics stand on: Inception (FID, KID, IS), LPIPS and CLIP, in Flax."""
