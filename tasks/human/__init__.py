"""Human evaluation: a page of blinded pairs, and what the ratings that come back say."""
