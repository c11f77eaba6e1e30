"""Language models as thin Flax linen modules with every hidden state returned."""
